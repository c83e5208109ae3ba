"""What is shown of records: headlines and their tests, rows, figures, the page, Markdown and CSV."""
