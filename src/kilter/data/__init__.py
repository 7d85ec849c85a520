"""Tables of rows that arrive in parts, their versions, and the datasets cut from them.

Enters: rows and frames, and the words Table, Columns, Label and Window. Leaves: frames as known at a moment, training and
holdout rows, Datasets. Guarantees: what was acknowledged is on disk; a view as of a moment shows nothing that arrived
later; the same rows have the same digest on every engine; bad rows are refused whole, with the row and the column.
"""
