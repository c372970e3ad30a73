"""What builds the book: directives, players' data, the cost explorer, MathML and fonts, glossary links, the logo."""
