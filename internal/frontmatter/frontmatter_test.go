package frontmatter

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParse(t *testing.T) {
	for _, test := range []struct {
		name, readme string
		want         Front
		err          string
	}{
		{"none", "# A model\n---\nlicense: mit\n---\n", Front{}, ""},
		{"empty", "", Front{}, ""},
		{"empty block", "---\n---\n# A model\n", Front{}, ""},
		{"all", "---\nlicense: other\nlicense_name: be-nice\nlicense_link: LICENSE\nbase_model:\n- a/b\n- c/d\nlanguage: en\ntags: [x, y]\n---\n# A model\n",
			Front{"other", "be-nice", "LICENSE", []string{"a/b", "c/d"}, []string{"en"}, []string{"x", "y"}}, ""},
		{"Windows, mark, blank lines", "\ufeff\r\n---\r\nlicense: [mit, bsd]\r\n---  \r\ntext", Front{License: "mit"}, ""},
		{"Norwegian", "---\nlanguage: [no, nb]\nlicense: ~\n---", Front{Languages: []string{"no", "nb"}}, ""},
		{"dashes inside", "---\nlicense_name: a\nextra: '\n  ---- '\nlicense: mit\n---\n", Front{License: "mit", LicenseName: "a"}, ""},
		{"no end", "---\nlicense: mit\n", Front{}, "no end"},
		{"no map", "---\n- license\n---\n", Front{}, "front matter"},
		{"no YAML", "---\nlicense: [mit\n---\n", Front{}, "front matter"},
		{"one bad key", "---\nlicense: mit\ntags: {a: b}\nlanguage:\n- en\n- [fr]\n---\n", Front{License: "mit", Languages: []string{"en"}}, `line 3: key "tags"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, err := Parse([]byte(test.readme))
			if test.err == "" != (err == nil) || err != nil && !strings.Contains(err.Error(), test.err) {
				t.Errorf("error %v, want %q", err, test.err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}
