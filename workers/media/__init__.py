"""Real and hostile media, decoded in a limited child process.

The parent's side is here (`sandbox`, `probe`, `audio`, `video`, `image`, `document`) beside pure arithmetic
(`magic`, `gaps`, `cuts`, `shots`). What runs in the child is `inside/`; only that imports av and pymupdf.
"""
