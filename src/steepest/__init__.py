"""steepest: train a transformer from scratch on your own text, within the time you have.

    import steepest
    run = steepest.train("corpus.txt", time="10m")
    print(run.metrics["bits_per_byte"])
    print(run.generate("Once upon a time"))

Every part works alone as well; names are imported from their rooms when first used.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steepest.api import (
        Plan,
        TrainedRun,
        load,
        plan,
        resume,
        rewind,
        scores,
        train,
    )
    from steepest.checkpoint import (
        load_checkpoint,
        newest_whole,
        save_checkpoint,
    )
    from steepest.data import (
        Batches,
        Corpus,
        DataConfig,
        evaluation_batches,
        prepare_corpus,
        read_documents,
    )
    from steepest.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        QueryError,
        RunError,
        SteepestError,
        StorageError,
        TokenizerError,
        TrainingError,
    )
    from steepest.export import (
        export_hugging_face,
    )
    from steepest.losses import (
        chunked_cross_entropy,
        cross_entropy,
    )
    from steepest.model import (
        Transformer,
        TransformerConfig,
        VocabularyHead,
        generate,
    )
    from steepest.objectives import (
        NextToken,
        Objective,
    )
    from steepest.optim import (
        Muon,
        OptimConfig,
        build_optimizer,
        clip_grad_norm_,
    )
    from steepest.runs import (
        RunFolder,
        open_run,
    )
    from steepest.tokenizer import (
        Tokenizer,
        TokenizerConfig,
        train_bpe,
    )
    from steepest.train import (
        RunConfig,
        TrainConfig,
        TrainState,
        evaluate,
        run_loop,
        train_step,
    )

__version__ = "0.1.0"

_ROOMS = {
    "steepest.api": ("Plan", "TrainedRun", "load", "plan", "resume", "rewind", "scores", "train"),
    "steepest.checkpoint": ("load_checkpoint", "newest_whole", "save_checkpoint"),
    "steepest.data": (
        "Batches",
        "Corpus",
        "DataConfig",
        "evaluation_batches",
        "prepare_corpus",
        "read_documents",
    ),
    "steepest.errors": (
        "CheckpointError",
        "ConfigError",
        "DataError",
        "QueryError",
        "RunError",
        "SteepestError",
        "StorageError",
        "TokenizerError",
        "TrainingError",
    ),
    "steepest.export": ("export_hugging_face",),
    "steepest.losses": ("chunked_cross_entropy", "cross_entropy"),
    "steepest.model": ("Transformer", "TransformerConfig", "VocabularyHead", "generate"),
    "steepest.objectives": ("NextToken", "Objective"),
    "steepest.optim": ("Muon", "OptimConfig", "build_optimizer", "clip_grad_norm_"),
    "steepest.runs": ("RunFolder", "open_run"),
    "steepest.tokenizer": ("Tokenizer", "TokenizerConfig", "train_bpe"),
    "steepest.train": ("RunConfig", "TrainConfig", "TrainState", "evaluate", "run_loop", "train_step"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}
__all__ = sorted(_ROOM_OF)


class _Package(ModuleType):
    """The package itself: names come from their rooms when first used.

    ``train`` is the function, although there is a room of that name: importing the room would bind it here, so
    the attribute is a property. The room's parts are had by ``from steepest.train import ...``.
    """

    def __getattr__(self, name: str) -> Any:
        if name == "memory":  # a room whose names are asked for by it: steepest.memory.predict
            return import_module("steepest.memory")
        if name not in _ROOM_OF:
            raise AttributeError(f"module 'steepest' has no attribute {name!r}")
        return getattr(import_module(_ROOM_OF[name]), name)

    def __dir__(self) -> list[str]:
        return sorted({*globals(), *__all__})

    @property
    def train(self) -> Any:
        return import_module("steepest.api").train

    @train.setter
    def train(self, room: ModuleType) -> None:
        """What the import system does with a room; nothing is bound."""


sys.modules[__name__].__class__ = _Package
