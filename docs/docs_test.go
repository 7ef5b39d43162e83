package docs

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Every topic has a text that begins with a title, and every page is a topic.
func TestTopics(t *testing.T) {
	pages, _ := filepath.Glob("*.md")
	for _, topic := range Topics {
		text := topic.Text()
		if headingLevel(text) == 0 || strings.Count(text, "\n") < 3 {
			t.Errorf("%s: the text is %.100q", topic.Name, text)
		}
		for _, title := range topic.More {
			if !strings.Contains(text, "# "+title+"\n") {
				t.Errorf("%s: no section %s", topic.Name, title)
			}
		}
		if topic.Section == "" {
			pages = slices.DeleteFunc(pages, func(p string) bool { return p == topic.Page+".md" })
		}
		if got, ok := Find(topic.Name); !ok || got.Short != topic.Short {
			t.Errorf("%s is not found, or is there twice", topic.Name)
		}
	}
	if len(pages) > 0 {
		t.Errorf("no topics for %v", pages)
	}
	if _, ok := Find("nothing"); ok {
		t.Error("found nothing")
	}
}

func TestSection(t *testing.T) {
	const page = "# A\n\n## B\nb\n```\n## C\n```\n### D\nd\n## `E`\ne\n"
	for title, want := range map[string]string{
		"B": "## B\nb\n```\n## C\n```\n### D\nd\n", "D": "### D\nd\n", "E": "## `E`\ne\n", "C": "", "A": page,
	} {
		if got := section(page, title); got != want {
			t.Errorf("%s: %q", title, got)
		}
	}
}

// No link is left that works only in the repository.
func TestReadable(t *testing.T) {
	for _, topic := range Topics {
		text := topic.Readable()
		if found := regexp.MustCompile(`\]\([^h)][^)]*\)`).FindString(text); found != "" {
			t.Errorf("%s: %q", topic.Name, found)
		}
	}
	if topic, _ := Find("commands"); !strings.Contains(topic.Readable(), "are in `mitogend help targets`, serve") {
		t.Error("a link names no topic")
	}
}
