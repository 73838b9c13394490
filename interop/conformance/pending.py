"""Payloads that do not do their job yet, and why: they may fail, and as soon as one works it has to go from here"""

OWN = "ours-ours"
PYTHON_DAEMON = "Python daemon-ours"
PYTHON_CONTROLLER = "ours-Python controller"
JAVA_DAEMON = "Java daemon-ours"
JAVA_CONTROLLER = "ours-Java controller"

PAIRINGS = (OWN, PYTHON_DAEMON, PYTHON_CONTROLLER, JAVA_DAEMON, JAVA_CONTROLLER)

# `(sender, payload)` to pairing to reason.
PENDING = {}
