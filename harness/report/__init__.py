"""From analysis to HTML, Markdown, CSV and LaTeX."""
