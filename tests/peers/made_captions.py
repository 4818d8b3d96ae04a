"""Captions for comparisons: hard ones for the tokenizer, and plain ones as people write them about photographs."""

HARD = """a the dog cat A The man Dog CAT on it's don't isn't can't cannot gonna wanna lemme y'all o'clock O'Neil I'm they're we've
he'd she'll rock'n'roll 'tis 'twas 'em 'til 'cause ma'am e'er t-shirt black-and-white well-known 20-year-old x-ray re-enter U.S. U.S.A.
e.g. i.e. a.m. p.m. Mr. Mrs. Dr. St. Inc. Corp. Co. Ltd. Pty. etc. vs. No. no. Jan. Feb. Sat. Calif. Gen. Jr. Sr. Ph.D. M.D. Ave. Blvd.
fig. pp. al. cf. approx. dept. tel. est. sq. ft. in. oz. Mfg. café naïve jalapeño Zürich Ångström ΟΔΟΣ Łódź и 日本 Straße AT&T R&D M&M's
A+B C++ C# and/or he/she w/ w/o 1/2 3/4 1 2 5 10 100 1,000 1,000.50 3.14 .5 5. 10:30 10:30:15 5% 50% 5th 1st 2nd 1990s '90s 90's 5'6" 6" $5
$5.00 US$ £5 €5 ¢5 ¥5 ½ 1½ ¼ #1 #tag @me a@b.com http://a.b/c?d=e https://x.y.z www.a.com a.com foo.org/bar file.txt photo.jpg my-file.doc
2012-05-12 12/05/2012 5-3 10-20 555-1212 (415) 555 1212 +1 :) :-( ;D =P <3 ^_^ (^_^) <b> </b> <br/> <!-- x --> &amp; &lt; &gt; &quot; &apos;
&nbsp; &mdash; &eacute; &#39; -LRB- -RRB- Yahoo! E! ?! !! ... .... .. -- --- - _ __ * ** / \\ | ~ ` `` '' ' " “ ” ‘ ’ « » ‹ › „ ‚ – — … · • ° ©
® ™ € £ ¢ ¤ × ÷ ≤ → ★ ♥ 😀 👍🏽 ² ³ ₂ ⁵ 10² H₂O 。 、 ！ ＃ ＠ ( ) [ ] { } < > << >> , ; : ! ? . + = % & $ # @ ^ n't 's 're 'll 've 'd 'm s t n d
ll re ve m N'T 'S mid-1990s pre-war -5 +5 -dog dog- a.b a.b.c A.B. J.K. No.5 3d 4x4 MP3""".split()
# Spaces that `split` would take for what stands between.
HARD += ["\u00a0", "\u3000", "\u200b", "\ufeff", "\u00ad", "\u0301", "\u2010", "\u2044"]
BETWEEN = [" "] * 6 + ["", "", "", ".", ",", ",", "-", "'", "/", "\t", "  "]
CHARACTERS = list("aabcdeinorstTSAMDNULX0159 ...,,--''\"\"``!?:;()[]{}<>/\\&$#@%*+=_~^|  ")
# The Turkish i's are left out: see docs/scores.md.
UNICODE = list("“”‘’‛«»‹›„‚–—…·•°©®™€£¢¤¥×÷≤→★♥éÉñüß日Σσ½¼¾⅓⅕²³¹₂⁄٣ªº¿¡§¶¨¯¬\u00a0\u3000\u200b\ufeff\u00ad\u0301\u2010\u2011\u0085\u066b")
MARKS = list("'\".,-/&#@$%()<>:;=+*_`~^|\\{}[]?! ")
NUMBERS = ["-", " ", ".", "/", ":", ",", "(", ")", "+", "\u00a0", " - ", "$", "%", "'", '"', "a", "⁄"]
ADDRESS = list("abcxyz019AZ....--//__@@%&?=#~+:;,!()[]{}'\"<>") + [".com", ".org", "www.", ".net", ".co.uk", ".txt", ".jpg"]
ENTITIES = ["&", "<", ">", "/", "amp;", "lt;", "gt;", "quot;", "apos;", "nbsp;", "eacute;", "#39;", "a", "B", " ", "=", "'", '"', "!", "-", "br"]
FIRST, LAST = ["", "'", '"', "(", "-", "$", "#", "@"], ["", "'", "'s", "n't", ".", ",", "'ll", "-", "'re", "!", ")", "/", "'t", "'n"]


def some(draw, choices, most):
    return "".join(draw.choice(choices) for _ in range(draw.randint(1, most)))


def changed(draw, text):
    """The text with a character put in, and perhaps one taken out."""
    at = draw.randrange(len(text) + 1)
    text = text[:at] + draw.choice(CHARACTERS + UNICODE) + text[at:]
    gone = draw.randrange(len(text)) if draw.random() < 0.5 else len(text)
    return text[:gone] + text[gone + 1 :]


def hard_caption(draw):
    """A text that asks much of a tokenizer; `draw` is a `random.Random`."""
    kinds = [
        lambda: "".join(draw.choice(HARD) + draw.choice(BETWEEN) for _ in range(draw.randint(1, 10))),
        lambda: some(draw, HARD, 4),
        lambda: some(draw, CHARACTERS, 14),
        lambda: some(draw, CHARACTERS + UNICODE, 12),
        lambda: some(draw, MARKS + list("aAbBnNtTsS015"), 16),
        lambda: some(draw, [chr(code) for code in range(32, 127)], 20),
        lambda: changed(draw, " ".join(draw.choice(HARD) for _ in range(draw.randint(2, 8)))),
        lambda: " ".join(draw.choice(FIRST) + some(draw, "abcdnstlrevmAUISTN", 5) + draw.choice(LAST) for _ in range(draw.randint(1, 8))),
        lambda: "".join(some(draw, "0123456789", 4) + draw.choice(NUMBERS) for _ in range(draw.randint(1, 8))),
        lambda: draw.choice(["http://", "https://", "www.", "", "foo@", "a.b@", "<"]) + some(draw, ADDRESS, 10) + draw.choice(["", " x", ".", ", "]),
        lambda: some(draw, ENTITIES, 10),
    ]
    return draw.choice(kinds)()


PEOPLE = "man woman boy girl child person couple group skateboarder surfer chef player dog cat horse elephant giraffe bear bird zebra".split()
LOOKS = "young old small large black white brown red blue green wooden wet busy snowy sunny empty colourful well-lit two-story".split()
DOES = "riding holding eating watching wearing throwing standing_next_to sitting_on looking_at playing_with walking_past lying_near".split()
THINGS = """skateboard surfboard bike pizza sandwich frisbee kite umbrella laptop clock bench train bus plane boat table couch bed toilet
sink stove field beach street kitchen bathroom snow grass wall window vase bowl plate cake tree fence mountain river bridge""".split()
ENDS = [".", ".", ".", "", "", " .", "!", " in the U.S.", " at 5 p.m.", ", isn't it?", ' with a "stop" sign.', " (left)."]


def plain_caption(draw):
    """A sentence like those of COCO."""

    def thing(words):
        look = draw.choice(LOOKS) + " " if draw.random() < 0.5 else ""
        return draw.choice(["a ", "the ", "A ", "one ", "two "]) + look + draw.choice(words)

    text = f"{thing(PEOPLE)} {draw.choice(DOES)} {thing(THINGS)}".replace("_", " ")
    if draw.random() < 0.5:
        text += f" {draw.choice(['near', 'on', 'with', 'and', 'behind', 'in front of'])} {thing(THINGS)}"
    return text + draw.choice(ENDS)


def plain_items(draw, count, references=5):
    """Images with references and a caption; each image's sentences have words in common."""
    items = []
    for number in range(count):
        shared = plain_caption(draw)
        texts = [shared if draw.random() < 0.1 else mixed(draw, shared) for _ in range(references + 1)]
        items.append({"id": str(number), "references": texts[1:], "caption": texts[0]})
    return items


def mixed(draw, text):
    """A sentence that begins like another and ends otherwise."""
    words, others = text.split(), plain_caption(draw).split()
    return " ".join(words[: draw.randint(1, len(words))] + others[draw.randint(0, len(others) - 1) :])
