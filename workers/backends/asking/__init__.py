"""Backends that ask a model: the questions of each kind of unit, and what becomes of what it says.

Who is asked, and how, is an `Asker`: a model server (`remote`) or our own engine (`local`).
"""
