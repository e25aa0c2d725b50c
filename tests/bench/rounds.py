"""Rounds of measurements, as many as it takes to decide.

Cases come in another order in each round, and formats in each case, so that
what the machine does besides meets them alike.  All are done in the first
rounds.  Then those go on whose target lies within the interval of the median
(results.py), with the two formats alone that the target is about, until it
does not, or there have been enough rounds, or there is no more time: then the
case stays undecided.
"""
import collections
import os
import random
import time

import tools

# Of 6 values, least and most are the interval.
LEAST = 6
MOST = 40
MINUTES = 25        # for a part, see PARTS in run

# @once gives what is measured with a format, in @unit; @base is the name of
# the one that @target is a ratio to.
Case = collections.namedtuple(
    'Case', 'group name how unit target base formats once')


class Rounds:
    def __init__(self, results, quick, say):
        self.results, self.say = results, say
        self.most = int(os.environ.get('ROUNDS') or (1 if quick else MOST))
        self.least = min(LEAST, self.most)
        self.minutes = float(os.environ.get('MINUTES') or MINUTES)
        self.random = random.Random(1)
        self.failed = set()

    def end(self):
        """When a part that begins now has had its time"""
        return time.monotonic() + 60 * self.minutes

    def has_failed(self, case, name):
        """Whether @case can't be done with the format @name."""
        return (case.group, case.name, case.how, name) in self.failed

    def measure(self, case, fmt, number):
        if self.has_failed(case, fmt.name):
            return
        try:
            value = case.once(fmt)
        except tools.Failure as error:
            # Not tried again in later rounds: it could take long each time.
            self.failed.add((case.group, case.name, case.how, fmt.name))
            self.results.fail('%s: %s (%s): %s' % (fmt.name, case.name,
                                                   case.how, error))
            return
        self.results.add(case.group, case.name, case.how, fmt.name, case.unit,
                         case.target, number, value)

    def goes_on(self, case):
        return bool(case.target) and not (
            self.has_failed(case, 'ours') or self.has_failed(case, case.base)
        ) and self.results.met(case.group, case.name, case.how,
                               case.target) is None

    def run(self, what, cases):
        end = self.end()
        # Tables have them in this order, whatever that of the rounds is.
        self.results.order(cases)
        for number in range(self.most):
            begun = number >= self.least
            if begun:
                cases = [case for case in cases if self.goes_on(case)]
            if not cases or (begun and time.monotonic() > end):
                break
            self.say('%s: round %d, %d cases' % (what, number + 1, len(cases)))
            for case in self.random.sample(cases, len(cases)):
                formats = [f for f in case.formats if not begun or
                           f.name in ('ours', case.base)]
                for fmt in self.random.sample(formats, len(formats)):
                    self.measure(case, fmt, number)
