"""What can go wrong with a deployment, each with what to do about it.

DeployError             told to the user; exit status 1
├── NoKey               no key of Vast.ai, or one that it refuses
├── NoCredit            the account has none left
├── QuotaExhausted      a quota of the account; it tells when it is filled again
├── VastFault           Vast.ai does not do what it is asked, after all tries
├── Gone                no such offer or instance (any more)
├── Unclear             something may have been created: its label tells
├── HostFailed          a machine that will not serve; another may
│   └── Lost            nobody answered whether there is an instance, and none was found
├── NoMachine           no offer fits, or all that were tried failed
├── StillThere          an instance could not be destroyed; names the command that does
└── NotOurs             no deployment of that name, or more than one

NotYet                  no answer now, but perhaps soon; never told to the user by itself
"""


class DeployError(Exception):
    """The root of the tree above."""


class NoKey(DeployError):
    pass


class NoCredit(DeployError):
    pass


class QuotaExhausted(DeployError):
    pass


class VastFault(DeployError):
    pass


class Gone(DeployError):
    pass


class Unclear(DeployError):
    pass


class HostFailed(DeployError):
    pass


class Lost(HostFailed):
    def __init__(self, message: str, label: str) -> None:
        super().__init__(message)
        self.label = label  # of what may show yet


class NoMachine(DeployError):
    pass


class StillThere(DeployError):
    pass


class NotOurs(DeployError):
    pass


class NotYet(Exception):
    """Says what there is instead of an answer."""
