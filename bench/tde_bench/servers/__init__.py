"""The servers of a run: made or found, described, watched for plaintext, and ended."""
