"""Retrieval: find texts by a query, and say how well they are found.

truth      held-out texts, which of them belong together; judges embeddings
ranks      recall@k, MRR and the like, ties counted against the model
fusion     one score out of several, weights chosen by held-out rows
terms      what a lexical score counts in a text
bm25       the lexical score, in sparse matrices
tfidf      the other one, cosines
baselines  both on the same rows, with their time
search     exact top k by the fused score
collapse   whether embeddings still tell texts apart
"""
