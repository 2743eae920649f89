package card

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"github.com/coppice-lm/coppice/checkpoint"
	"github.com/coppice-lm/coppice/gguf"
	"github.com/coppice-lm/coppice/internal/frontmatter"
)

// Base is the hub's name of the model that was pruned.
type Base struct {
	Name     string // owner/name
	Revision string // commit; empty if not known
}

// hubName is what the hub accepts as owner/name. Counted repetitions take a millisecond to
// compile, which other commands need not wait for.
var hubName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$`)
})

// revisionName is a commit, a branch or a tag, as far as it needs no quotes in commands.
var revisionName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][\w./-]{0,254}$`) })

// ParseBase reads owner/name[@revision].
func ParseBase(s string) (Base, error) {
	name, revision, pinned := strings.Cut(s, "@")
	if pinned && !revisionName().MatchString(revision) {
		return Base{}, fmt.Errorf("%q: the revision %q is no commit, branch or tag of letters, digits, dots, dashes and slashes", s, revision)
	}
	if !hubName().MatchString(name) || strings.Contains(name, "..") || strings.Contains(name, "--") {
		return Base{}, fmt.Errorf("%q is not a name on the hub, owner/name", s)
	}
	return Base{name, revision}, nil
}

// provenance is what a dense model's files say of where it is from.
type provenance struct {
	Base
	frontmatter.Front
}

// provenanceOf finds the hub's name of a dense model by its path, a snapshot in the Hugging
// Face cache, or in a GGUF file that says which repository it was made from; and licence
// and languages in its README.md or that file. The base_model of either is not its name:
// that is what the dense model was derived from in its turn.
func provenanceOf(c *checkpoint.Checkpoint) provenance {
	if c.GGUF() {
		return provenanceOfGGUF(c.Path)
	}
	var p provenance
	for _, f := range c.Extra() {
		if f.Name == "README.md" {
			if b, err := f.Read(maxReadme); err == nil {
				p.Front, _ = frontmatter.Parse(b) // as far as it can be read
			}
		}
	}
	abs, err := filepath.Abs(c.Path)
	if err != nil {
		return p
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		abs = real
	}
	p.Base, _ = baseInCache(filepath.ToSlash(abs))
	return p
}

var cachePath = regexp.MustCompile(`/models--([^/]+)--([^/]+)/snapshots/([^/]+)$`)

// baseInCache reads the path of a snapshot, models--owner--name/snapshots/commit.
func baseInCache(path string) (Base, bool) {
	m := cachePath.FindStringSubmatch(path)
	if m == nil || !hubName().MatchString(m[1]+"/"+m[2]) || !revisionName().MatchString(m[3]) {
		return Base{}, false
	}
	return Base{m[1] + "/" + m[2], m[3]}, true
}

// provenanceOfGGUF reads where a GGUF file says that its weights were converted from, else
// where it says that it lies itself, and the licence and languages that it names (ggml,
// docs/gguf.md: general.source.*, general.repo_url, general.license, general.languages).
func provenanceOfGGUF(path string) provenance {
	var p provenance
	f, err := os.Open(path)
	if err != nil {
		return p
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return p
	}
	g, err := gguf.Read(f, st.Size())
	if err != nil {
		return p
	}
	text := func(key string) string {
		s, err := g.String("general." + key)
		if err != nil {
			return "" // not there, or no text
		}
		return s
	}
	p.License, p.LicenseName, p.LicenseLink = text("license"), text("license.name"), text("license.link")
	p.Languages, _ = g.Strings("general.languages")
	for _, key := range []string{"source.huggingface.repository", "source.repo_url", "repo_url"} {
		s := strings.TrimSuffix(strings.TrimPrefix(text(key), "https://huggingface.co/"), "/")
		if b, err := ParseBase(s); err == nil {
			p.Base = b
			break
		}
	}
	return p
}

var errNoBase = errors.New("the name of the base model on the hub is not known; give --base-model owner/name, or --baseline MODEL where MODEL is owner/name in the Hugging Face cache")
