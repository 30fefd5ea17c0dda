"""The categories of fastinit's warnings, each to be silenced by its name.

    warnings.filterwarnings("ignore", category=fastinit.UnusedRuleWarning)

What torch.nn.init warns of is warned of in torch's words and categories.
"""


class InitWarning(UserWarning):
    """Any warning of fastinit's."""


class UnusedRuleWarning(InitWarning):
    """A rule, override or pattern that matches or writes nothing, or has no effect on something."""


class NotInitializedWarning(InitWarning):
    """Parameters that nothing has initialised although something should: code that was not run."""


class OverwrittenWarning(InitWarning):
    """Pretrained values that a later rule has overwritten."""


class SameValuesWarning(InitWarning):
    """Parts of one whole, or two models, that have the same values."""


class ReproducibilityWarning(InitWarning):
    """Values that may differ where they ought to be the same: they depend on an order, or on code
    that was not seen."""


class FallbackWarning(InitWarning, RuntimeWarning):
    """Work that is left to torch.nn.init, which draws other values."""
