"""The product for Python: the same as the command line, with models, data and losses given as objects too.

Names are reached through ``compress`` itself, which imports these modules when one of them is first asked for. Errors are
``UserError``, with the words of the command line.
"""
