"""Words of the glossary are linked at their first use, and nowhere else."""

from wiring_book.glossary import first_uses

TERMS = {"cell", "minimal cell", "None", "cost"}


def linked(*texts):
    return [[piece for piece in pieces if piece[1]] for pieces in first_uses(list(texts), TERMS)]


def test_each_term_is_linked_once_over_all_texts():
    assert linked("A cell and a cell", "of cells at a cost") == [[("cell", "cell")], [("cost", "cost")]]


def test_the_longer_term_wins_plurals_and_sentence_starts_count():
    assert linked("Minimal cells pay. Costs: none, None") == [
        [("Minimal cells", "minimal cell"), ("Costs", "cost"), ("None", "None")]
    ]


def test_parts_of_words_are_no_uses():
    assert linked("excellent, costly, zero-cost, cell-wise, subcell") == [[]]


def test_the_pieces_make_up_the_text():
    text = "None costs nothing in a minimal cell."
    (pieces,) = first_uses([text], TERMS)
    assert "".join(piece for piece, _ in pieces) == text
