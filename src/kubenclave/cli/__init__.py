# SPDX-License-Identifier: Apache-2.0
"""The command line: one module or package for each noun in the table of ``main``.

What is no noun is shared by them: ``kit`` (results, errors, progress), ``parameters`` (values that options take),
``evidence`` (quotes and what vouches for them, from files) and ``show`` (how these are shown).
"""
