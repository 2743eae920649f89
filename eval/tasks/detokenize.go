package tasks

import (
	"regexp"
	"strings"
)

// pySpace is Python's \s on text as a character class; Go's own is ASCII alone.
const pySpace = `[\t-\r\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]`

// insideSpace finds a pair of marks and what they hold, without the white space inside the
// marks. The marks are single characters, quoted for a regular expression; what they hold
// has no closing mark.
func insideSpace(open, close string) *regexp.Regexp {
	return regexp.MustCompile(open + pySpace + `*([^` + close + `]*?)` + pySpace + `*` + close)
}

// wikitextStep is a replacement of the detokeniser: of a text, or of what a regular
// expression finds.
type wikitextStep struct {
	old   string
	match *regexp.Regexp
	new   string
}

// wikitextSteps undo the splitting of WikiText into tokens, as lm-eval does and in its
// order: some steps see what earlier ones left. The second is a slip of lm-eval's, kept
// since it is part of the reference: it puts the characters [0-9] in the place of a digit.
var wikitextSteps = []wikitextStep{
	{old: "s '", new: "s'"},
	{match: regexp.MustCompile(`/' [0-9]/`), new: "/'[0-9]/"},
	{old: " @-@ ", new: "-"},
	{old: " @,@ ", new: ","},
	{old: " @.@ ", new: "."},
	{old: " : ", new: ": "},
	{old: " ; ", new: "; "},
	{old: " . ", new: ". "},
	{old: " ! ", new: "! "},
	{old: " ? ", new: "? "},
	{old: " , ", new: ", "},
	{match: insideSpace(`\(`, `\)`), new: "($1)"},
	{match: insideSpace(`\[`, `\]`), new: "[$1]"},
	{match: insideSpace(`\{`, `\}`), new: "{$1}"},
	{match: insideSpace(`"`, `"`), new: `"$1"`},
	{match: insideSpace(`'`, `'`), new: "'$1'"},
	{old: "= = = =", new: "===="},
	{old: "= = =", new: "==="},
	{old: "= =", new: "=="},
	{old: " \u00b0 ", new: "\u00b0"},
	{old: " \n", new: "\n"},
	{old: "\n ", new: "\n"},
	{old: " N ", new: " 1 "},
	{old: " 's", new: "'s"},
}

// detokenize returns a page of WikiText as it would have been printed.
func detokenize(page string) string {
	for _, s := range wikitextSteps {
		if s.match != nil {
			page = s.match.ReplaceAllString(page, s.new)
		} else {
			page = strings.ReplaceAll(page, s.old, s.new)
		}
	}
	return page
}
