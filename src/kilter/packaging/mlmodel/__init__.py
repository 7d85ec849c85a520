"""Models in MLflow's form: a folder with an ``MLmodel`` file, read into what can be packaged, and written of a bundle.

Enters: the files of a folder, from a disk or a store; or a bundle. Leaves: a model with the rows to check it on; or the folder's files.
Guarantees: nothing of a folder is run or unpickled, and a form that can't be read so is refused with its reason and the way out.
"""
