"""Text laid out otherwise than in lines: a table, pages of markup. Written for proofbook (Apache-2.0, as the code)."""

# the heads of the columns, then row by row
TABLE = (
    ("Title", "Copies", "Price", "Printed"),
    ("Atlas of clouds", "2", "38.00", "2019"),
    ("A history of bells", "1", "24.50", "1987"),
    ("Pencils", "5", "6.25", "2024"),
    ("Maps of the coast", "3", "12.75", "2003"),
)

# asked of it, a word left out, marked {}
TABLE_GAPS = (
    "How many {} are there?",
    "Which title was {} in 1987?",
    "What is the sum of the {} of all that was printed before 2010?",
)

# of unlike lengths, with lists, tables and sections one in the other
MARKUP = (
    "<html><head><title>Riverside Books</title></head><body><h1>Atlas of clouds</h1><div><p>By <b>Ada Miller</b>.</p>"
    "<ul><li>240 pages</li><li>38.00</li></ul></div></body></html>",
    "<html><body><div><h2>Opening hours</h2><table><tr><td>Monday</td><td>9 to 5</td></tr>"
    "<tr><td>Tuesday</td><td>closed</td></tr></table></div></body></html>",
    "<html><body><section><p>We send a <a>list</a> every month.</p></section></body></html>",
)
