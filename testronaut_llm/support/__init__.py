"""What every room needs: files written whole, folders, secrets taken out of text, numbers read exactly."""
