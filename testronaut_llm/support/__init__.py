"""What every room needs: files, text, money, bodies of HTTP responses."""
