"""Runs one module of CPython's own test suite and says how each test ended, one line a test:

    OUTCOME SECONDS ID

and after a failure its traceback, each line with a leading tab. Outcomes: ok, fail, error, skip, xfail, xpass.

    cpython_suite.py MODULE [+RESOURCE ...] [PATTERN ...]

MODULE is a module of the package `test`; +RESOURCE enables a resource of regrtest (`+network`); with patterns (fnmatch, on the
test's id) only the tests that match one run, and with patterns that begin with `-` none that match one of these.
"""

import faulthandler
import fnmatch
import os
import sys
import time
import traceback
import unittest

# One test never takes this long: the traceback of every thread, and the end.
STUCK = 120

report = open(sys.stdout.fileno(), "w", buffering=1, closefd=False, encoding="utf-8", errors="backslashreplace")


class Outcomes(unittest.TestResult):
    def __init__(self):
        super().__init__()
        self.begun = time.monotonic()
        self.said = set()

    def startTest(self, test):
        super().startTest(test)
        faulthandler.dump_traceback_later(STUCK, exit=True)
        self.begun = time.monotonic()

    def note(self, test, outcome, detail=""):
        # What goes wrong in a subtest or in the tearDown counts for the test; the first word stands.
        if test.id() in self.said:
            return
        self.said.add(test.id())
        report.write(f"{outcome} {time.monotonic() - self.begun:.3f} {test.id()}\n")
        for line in detail.splitlines():
            report.write(f"\t{line}\n")

    def fault(self, test, error):
        outcome = "fail" if issubclass(error[0], getattr(test, "failureException", AssertionError)) else "error"
        self.note(test, outcome, "".join(traceback.format_exception(*error)))

    def addSuccess(self, test):
        self.note(test, "ok")

    def addFailure(self, test, error):
        self.fault(test, error)

    def addError(self, test, error):
        self.fault(test, error)

    def addSubTest(self, test, subtest, error):
        if error is not None:
            self.fault(test, error)

    def addSkip(self, test, reason):
        self.note(getattr(test, "test_case", test), "skip", reason)

    def addExpectedFailure(self, test, error):
        self.note(test, "xfail")

    def addUnexpectedSuccess(self, test):
        self.note(test, "xpass")


def chosen(suite, wanted):
    """The same suite, nested as before (so that class and module fixtures work), with only the tests that are wanted."""
    kept = type(suite)()
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            kept.addTest(chosen(test, wanted))
        elif wanted(test.id()):
            kept.addTest(test)
    return kept


def main():
    module, *rest = sys.argv[1:]
    resources = [word[1:] for word in rest if word.startswith("+")]
    without = [word[1:] for word in rest if word.startswith("-")]
    only = [word for word in rest if word[0] not in "+-"]

    def wanted(name):
        matches = lambda patterns: any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        return (matches(only) or not only) and not matches(without)

    from test import support
    from test.support import os_helper

    support.use_resources = resources
    support.verbose = 0
    support.junit_xml_list = None
    # A run that was ended before has left its own.
    with os_helper.temp_cwd(f"cwd-{os.getpid()}"):
        try:
            loaded = unittest.defaultTestLoader.loadTestsFromName(f"test.{module}")
        except unittest.SkipTest as skipped:
            report.write(f"skip 0.000 test.{module}\n\t{skipped}\ndone\n")
            return
        chosen(loaded, wanted).run(Outcomes())
    faulthandler.cancel_dump_traceback_later()
    report.write("done\n")


if __name__ == "__main__":
    main()
