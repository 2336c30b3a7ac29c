"""Models and strengths on parts of a picture, side by side, to be compared before a long run.

areas     which parts of a picture
figures   what is measured on them
run       a picture through all models: regions for `medcli.images.comparison`
"""
