"""Retrieval: find texts by a query, and say how well they are found.

ranks     recall@k, MRR and the like, ties counted against the model
bm25      the lexical baseline, in sparse matrices
tfidf     the other one: n-grams of characters, by scikit-learn
search    exact top k of embeddings, scores of two kinds fused
collapse  whether embeddings still tell texts apart
"""
