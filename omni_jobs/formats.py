"""What the files of a result are called: `talk.mp4` gives `talk.srt`, `talk.result.json`, `talk.manifest.json`.

Imports nothing, so that every part may ask.
"""

SUFFIX_OF = {
    "json": ".result.json",
    "txt": ".txt",
    "srt": ".srt",
    "vtt": ".vtt",
    "md": ".md",
    "manifest": ".manifest.json",
}
# Those that are put beside a source or into a folder, in this order; the manifest stays in the object store.
FILED = ("json", "txt", "srt", "vtt", "md")
