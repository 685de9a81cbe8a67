"""The life of each key, as the key log tells it: from its creation to its destruction."""
