package frontmatter

import (
	"bytes"
	"testing"
)

// FuzzParse: no README makes Parse panic, and what has no block says nothing.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "---\n---\n", "---\nlicense: mit\n---\n", "\ufeff---\r\nlanguage: [no]\r\n---\r\n",
		"---\na: &a [*a]\n---\n", "---\nbase_model: {x: y}\ntags: !!binary aGk=\n---", "---\nlicense: 1\nlicense: 2\n---\n",
		"---\n? [license]\n: mit\n---\n", "---\n<<: {license: mit}\n---\n",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, readme []byte) {
		front, err := Parse(readme)
		if err == nil && !bytes.Contains(readme, []byte("---")) && (front.License != "" || front.BaseModels != nil) {
			t.Errorf("%+v without front matter", front)
		}
	})
}
