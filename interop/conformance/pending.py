"""Payloads that do not do their job yet, and why: they may fail, and as soon as one works it has to go from here"""

OWN = "ours-ours"
PYTHON_DAEMON = "Python daemon-ours"
PYTHON_CONTROLLER = "ours-Python controller"
JAVA_DAEMON = "Java daemon-ours"
JAVA_CONTROLLER = "ours-Java controller"

PAIRINGS = (OWN, PYTHON_DAEMON, PYTHON_CONTROLLER, JAVA_DAEMON, JAVA_CONTROLLER)


def everywhere(reason):
    return dict.fromkeys(PAIRINGS, reason)


def with_our_daemon(reason):
    return dict.fromkeys((OWN, PYTHON_CONTROLLER, JAVA_CONTROLLER), reason)


# `(sender, payload)` to pairing to reason.
PENDING = {
    ("daemon", "daemon_log_record"): everywhere("logs of daemons are neither sent nor kept"),
    ("daemon", "module_state_update"): everywhere("the states of modules are not kept, and no module is hosted"),
    ("daemon", "event_subscribe"): with_our_daemon("no module can ask for them"),
    ("daemon", "event_unsubscribe"): with_our_daemon("no module can ask for them"),
    ("controller", "module_install"): everywhere("no modules are distributed or hosted"),
    ("controller", "module_uninstall"): everywhere("no modules are distributed or hosted"),
    ("controller", "module_event"): with_our_daemon("no module can take them"),
}
