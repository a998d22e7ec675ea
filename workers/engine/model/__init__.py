"""The model: text, vision, sound, and how they meet."""
