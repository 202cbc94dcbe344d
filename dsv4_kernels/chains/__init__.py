"""Whole layers: which segments in which order, and the functions that a server calls.

| file          | what it does                                                              |
|---------------|---------------------------------------------------------------------------|
| attention.py  | the forms of attention, from the caches to packed heads                   |
| projection.py | the forms of the output projection, from packed heads to the output       |
| prefill.py    | `prefill_sparse_attn` and its plan                                        |

A schedule is a form of each. Another one is another entry of FORMS.
"""
