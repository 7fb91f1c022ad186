"""From a Vast.ai key to a rerank endpoint, and back to nothing.

plan.py      pure: what a model needs → the search for a machine, and the request for an instance
offers.py    pure: which offer is the best, and why
instance.py  pure: what Vast.ai and the start script say of an instance
snippets.py  pure: what to paste once it runs
boot.sh      what runs in the instance
bundle.py    our own program as one small file, which the instance is given
api.py       the only file that talks to Vast.ai, through its SDK; faults.py: its exceptions as ours
endpoint.py  the only file that talks to an instance, over pinned TLS
tunnel.py    the way to it through SSH
notes.py     what this machine keeps of a deployment: its key, certificate, program
rental.py    one instance from its creation until it is kept or gone
follow.py    waits until an instance ranks, or will not; ready.py: what is noted of it then
launch.py    the story: rent, wait, verify; or take the next offer
manage.py    what may be done with deployments that exist
recipe.py    pure: the plain recipe of Vast.ai's guide, with what it lacks
command.py   the command line; options.py: what may stand behind it; desk.py: what it works with
errors.py    what can go wrong, and what to do about it
"""
