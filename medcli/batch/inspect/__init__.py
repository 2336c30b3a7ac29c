"""Images before they are denoised: what is reported of one, and of many.

report   a file's inspection as lines, as a JSON object, as a row; a summary per camera and ISO
plot     noise against brightness, autocorrelation and spectrum as a picture
"""
