"""Sentences in several scripts, written for proofbook (Apache-2.0, as the code)."""

from functools import cache
from importlib.resources import files


@cache
def _sections() -> dict[str, tuple[str, ...]]:
    """The lines of ``corpus.txt`` under their headings."""
    sections: dict[str, list[str]] = {}
    for line in files(__package__).joinpath("corpus.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("[") and line.endswith("]"):
            lines = sections.setdefault(line[1:-1], [])
        elif not line.startswith("# "):
            lines.append(line)
    return {language: tuple(lines) for language, lines in sections.items()}


def languages() -> tuple[str, ...]:
    """What the corpus is in: ISO 639-3 codes, ``code`` and ``emoji``, the most widely spread scripts first."""
    return tuple(_sections())


def corpus(*chosen: str) -> list[str]:
    """The sentences of the languages chosen, or of all."""
    sections = _sections()
    return [line for language in chosen or sections for line in sections[language]]


# a word left out, marked {}: what a masked language model fills in
GAPS = (
    "Paris is the {} of France.",
    "Every winter the bears sleep in their caves, and every spring they {} up hungry; so the teacher explained.",
    "Маленькая лодка пересекла тихое {}, пока дети считали птиц на берегу.",
    "今天天气很{},我们去公园看花。",
)
# the same in proteins: human ubiquitin, insulin's precursor, and the alpha chain of haemoglobin, from their beginnings
PROTEIN_GAPS = (
    "MQIFVKTLTGKTITL{}VEPSDTIENVKAKIQDKEGIPPDQQRLIFAGKQ",
    "MALWMRLLPLLALLALWGPDPAAAFVNQHLCGSH{}VEALYLVCGERGFFYTPKT",
    "MVLSPADKTNVKAAW{}KVGAHAGEYG",
)
# proteins, the shapes of their chains in letters of Foldseek (made up), and what is asked of them
FOLDED = (
    ("MQIFVKTLTGKTITLEVEP", "dpqkiwgaleyvfhtcsnr", "What does this protein do?"),
    ("MALWMRLLPLLALLALW", "dvvlpqcknhaeswgty", "Where in the cell is it found, and what binds to it?"),
    ("MVLSPADKTNVKAAWGKVGAH", "pdlvcaqenkgshytirwfmv", "What is it made of?"),
)
# a phrase that comes back, its second time left out
RECURRENCES = (
    "The old captain knew the sea, and everybody on the boat asked {} for advice.",
    "A small boat crossed the lake. While the children counted the birds on the shore, {} came back.",
    "The museum opens at nine, and {} is free for children under twelve.",
)
SENTENCES = (
    "This film is wonderful: the music is beautiful and the story is full of surprises.",
    "This film is terrible.",
    "Der Zug in die Berge fährt um sieben Uhr morgens vom alten Bahnhof ab, und der Bahnhof liegt am Fluss.",
    "Скажите, пожалуйста, где находится библиотека?",
)
# two by two, one thing said in two ways
PARAPHRASES = (
    ("The train leaves at seven in the morning.", "Departure of the train is at 7 a.m."),
    ("My brother is a very good cook.", "My brother cooks really well."),
    ("The river froze over during the cold winter.", "In the icy winter, ice covered the whole river."),
)
PROMPTS = (
    "The old captain looked at the sea and",
    "def add(a, b):\n    return a +",
    "Every winter the bears sleep in their caves. Every spring they wake up hungry, leave the forest and walk to",
    "Каждую зиму медведи",
)
# a text, and what it becomes: in French, in short, as English of a program
TRANSLATIONS = (
    (
        "The train to the mountains leaves at seven in the morning from the old station.",
        "Le train pour les montagnes part à sept heures du matin de la vieille gare.",
    ),
    ("Where is the library, please?", "Où se trouve la bibliothèque, s'il vous plaît ?"),
    (
        "A small boat crossed the quiet lake while the children counted the birds.",
        "Un petit bateau traverse le lac tranquille pendant que les enfants comptent les oiseaux.",
    ),
)
SUMMARIES = (
    (
        "The city will build a new bridge across the river. The old one, which is more than a hundred years old, "
        "will be closed to cars, but people may still walk over it. The work begins in March and takes three years.",
        "A new bridge will be built, and the old one closed to cars.",
    ),
    (
        "Scientists found that the glacier had become forty metres thinner in only ten years.",
        "The glacier is melting fast.",
    ),
    (
        "The museum has a new entrance. It opens at nine, and children under twelve don't pay.",
        "The museum has changed: a new entrance, and children enter without paying.",
    ),
)
INSTRUCTIONS = (
    ("translate English to French: Where is the library, please?", "Où se trouve la bibliothèque, s'il vous plaît ?"),
    ("Answer the question: which city is the capital of Italy?", "Rome."),
    (
        "summarize: The old bridge will be closed to cars in March, and a new one will be built beside it.",
        "A new bridge replaces the old one.",
    ),
)
PROGRAMS = (
    ("def add(a, b):\n    return a + b", "Add two numbers."),
    ("for i in range(10): print(i * 2)", "Print the even numbers below twenty."),
    ("if x >= 3 and y != 0:\n    z = [k for k in data if k % 2 == 1]", "Keep the odd ones."),
)
