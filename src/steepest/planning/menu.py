"""The menu: sizes that could be trained, and the tokens that the time buys for each of them.

    tokens(N) = min(share * seconds left / seconds per token(N),  MOST_EPOCHS * tokens of text, or the user's own most steps)

Everything that chooses a size chooses from it: the rule from speed alone, the law by predicted loss.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from steepest.model import TransformerConfig
from steepest.model.size import n_matrix_parameters
from steepest.planning.measure import Pace
from steepest.planning.rules import (
    FAMILY,
    allowed_sizes,
    choose_size,
    default_batch_tokens,
    enough_tokens,
    member,
)
from steepest.train.run import RunConfig

if TYPE_CHECKING:
    from steepest.planning.predict import Outlook

TRAINING_SHARE = 0.92  # of the time left after planning; the rest is evaluations, checkpoints, the sample
# Times larger or smaller, and layers more or fewer than the rule's size has, that the law may choose: rungs are as deep as
# that, so they know what width is worth.
NEAR, DEEPER = 2.0, 1


@dataclass(frozen=True)
class Menu:
    """Sizes and what the time buys.

    Attributes:
        models: from small to large; one, where the user gave the size.
        bought: tokens that the time buys for each.
        unique: different tokens there are.
        most_steps: that the user allows.
        batch_tokens: of a step, where the user has said so.
    """

    models: tuple[TransformerConfig, ...]
    bought: tuple[float, ...]
    unique: int
    most_steps: int | None = None
    batch_tokens: int | None = None

    @classmethod
    def of(
        cls, given: RunConfig, fixed: dict[str, Any], pace: Pace, seconds: float, unique: int,
        most: int | None = None,
    ) -> "Menu":  # fmt: skip
        """What ``seconds`` buy, sizes from the family (up to ``most`` parameters) unless the user gave one."""
        sized = bool({"depth", "width"} & given.model.model_fields_set)
        models = [TransformerConfig(**fixed)] if sized else [member(fixed, shape) for shape in FAMILY]
        models.sort(key=n_matrix_parameters)
        if most is not None and not sized:
            models = [model for model in models if n_matrix_parameters(model) <= most] or models[:1]
        bought = [
            TRAINING_SHARE * seconds / pace.seconds_per_token(n_matrix_parameters(model)) for model in models
        ]
        return cls(tuple(models), tuple(bought), unique, given.train.most_steps, given.batches.batch_tokens)

    @property
    def tokens(self) -> tuple[float, ...]:
        """That each would be trained on: what the time buys, or what is enough for so much text or for the user."""
        return tuple(
            self._allowed(model, tokens) for model, tokens in zip(self.models, self.bought, strict=True)
        )

    def _allowed(self, model: TransformerConfig, bought: float) -> float:
        if self.most_steps is None:
            return min(bought, enough_tokens(self.unique))
        tokens = bought
        while (fewer := self.most_steps * self._batch(model, tokens)) < tokens:
            tokens = float(fewer)  # of which the rule's batch may be smaller
        return tokens

    def _batch(self, model: TransformerConfig, tokens: float) -> int:
        return self.batch_tokens or default_batch_tokens(model.context, max(1, int(tokens)))

    def batch(self, index: int) -> int:
        """Tokens a step, of one size."""
        return self._batch(self.models[index], self.tokens[index])

    @property
    def sizes(self) -> list[int]:
        """Matrix parameters of each."""
        return [n_matrix_parameters(model) for model in self.models]

    @property
    def rule(self) -> int:
        """Index of the size that the rule takes, from speed alone."""
        return choose_size(self.sizes, self.bought, self.unique)

    def best(self, outlook: "Outlook | None") -> int:
        """Index of the size with the least expected loss, near the rule's; the rule's, where nothing is predicted."""
        if outlook is None or outlook.law is None:
            return self.rule
        sizes, rule = self.sizes, self.rule
        allowed = [
            index for index in allowed_sizes(sizes, self.bought, self.unique)
            if 1 / NEAR <= sizes[index] / sizes[rule] <= NEAR
            and abs(self.models[index].depth - self.models[rule].depth) <= DEEPER
        ]  # fmt: skip
        return outlook.best(sizes, self.tokens, self.unique, allowed=allowed, rule=rule)

    def epochs(self, index: int) -> float:
        """Passes over the text, of one size."""
        return self.tokens[index] / max(self.unique, 1)

    def with_budget(self, *, time: float = 1.0, data: float = 1.0) -> "Menu":
        """With so many times the time, or the text."""
        return replace(
            self, bought=tuple(time * one for one in self.bought), unique=round(self.unique * data)
        )

    def only(self, index: int) -> "Menu":
        """Only one of the sizes."""
        return replace(self, models=self.models[index : index + 1], bought=self.bought[index : index + 1])

    def up_to(self, count: int) -> "Menu":
        """Only the ``count`` smallest."""
        return replace(self, models=self.models[:count], bought=self.bought[:count])
