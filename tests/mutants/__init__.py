"""Does a test see it? Small wrong edits of the code, one at a time, each with the test that must.

catalogue/   the mutants, by the file that they edit
trial.py     one mutant: a copy of the tree, the edit, the tests, a verdict
witness.py   pytest plugin that tells a test's verdict from code that merely broke

`make mutants` tries all of them.
"""
