package card

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/coppice-lm/coppice/gguf"
)

// Base is the hub's name of the model that was pruned.
type Base struct {
	Name     string // owner/name
	Revision string // commit; empty if not known
}

// hubName is what the hub accepts as owner/name.
var hubName = regexp.MustCompile(`^[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}$`)

// ParseBase reads owner/name[@revision].
func ParseBase(s string) (Base, error) {
	name, revision, _ := strings.Cut(s, "@")
	if !hubName.MatchString(name) || strings.Contains(name, "..") || strings.Contains(name, "--") {
		return Base{}, fmt.Errorf("%q is not a name on the hub, owner/name", s)
	}
	return Base{name, revision}, nil
}

// baseOf finds the hub's name of a dense model by its path: a snapshot in the Hugging Face
// cache, or a GGUF file that says which repository it was made from. The base_model of a GGUF file or of a README is not it: that is what the
// dense model was derived from in its turn.
func baseOf(model string) (Base, bool) {
	st, err := os.Stat(model)
	if err != nil {
		return Base{}, false
	}
	if !st.IsDir() {
		return baseOfGGUF(model)
	}
	abs, err := filepath.Abs(model)
	if err != nil {
		return Base{}, false
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		abs = real
	}
	return baseInCache(filepath.ToSlash(abs))
}

var cachePath = regexp.MustCompile(`/models--([^/]+)--([^/]+)/snapshots/([^/]+)$`)

// baseInCache reads the path of a snapshot, models--owner--name/snapshots/commit.
func baseInCache(path string) (Base, bool) {
	m := cachePath.FindStringSubmatch(path)
	if m == nil || !hubName.MatchString(m[1]+"/"+m[2]) {
		return Base{}, false
	}
	return Base{m[1] + "/" + m[2], m[3]}, true
}

// baseOfGGUF reads where a GGUF file says that its weights were converted from, else where
// it says that it lies itself (ggml, docs/gguf.md: general.source.*, general.repo_url).
func baseOfGGUF(path string) (Base, bool) {
	f, err := os.Open(path)
	if err != nil {
		return Base{}, false
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Base{}, false
	}
	g, err := gguf.Read(f, st.Size())
	if err != nil {
		return Base{}, false
	}
	for _, key := range []string{"general.source.huggingface.repository", "general.source.repo_url", "general.repo_url"} {
		s, err := g.String(key)
		if err != nil {
			continue
		}
		s = strings.TrimSuffix(strings.TrimPrefix(s, "https://huggingface.co/"), "/")
		if b, err := ParseBase(s); err == nil {
			return b, true
		}
	}
	return Base{}, false
}

var errNoBase = errors.New("the name of the base model on the hub is not known; give --base-model owner/name, or --baseline MODEL where MODEL is owner/name in the Hugging Face cache")
