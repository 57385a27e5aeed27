"""What a page of HTML holds."""

from html.parser import HTMLParser


class Tags(HTMLParser):
    """Checks that tags nest, and gathers what they point at."""

    def __init__(self, html):
        super().__init__()
        self.open, self.points, self.texts = [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.points += [value for name, value in attrs if name in ("src", "href", "data", "action", "srcset")]
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)
