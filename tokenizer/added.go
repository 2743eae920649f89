package tokenizer

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"
)

// An addedSet finds added tokens in a text: at each place the longest, from the left.
type addedSet struct {
	nodes  []trieNode // node 0 is the root
	starts [256]bool  // the first bytes of all tokens
	only   byte       // the only first byte, if single
	single bool
}

type trieNode struct {
	keys     []byte // of the children
	children []int32
	token    *addedTokenJSON // the token that ends here
}

func (a *addedSet) empty() bool { return len(a.nodes) < 2 }

// add puts a token under its content as the text has it.
func (a *addedSet) add(content string, token *addedTokenJSON) {
	if content == "" {
		return
	}
	if len(a.nodes) == 0 {
		a.nodes = make([]trieNode, 1)
		a.only, a.single = content[0], true
	}
	a.starts[content[0]] = true
	a.single = a.single && a.only == content[0]
	at := int32(0)
	for i := range len(content) {
		next := a.nodes[at].child(content[i])
		if next == 0 {
			next = int32(len(a.nodes))
			a.nodes = append(a.nodes, trieNode{})
			n := &a.nodes[at]
			n.keys, n.children = append(n.keys, content[i]), append(n.children, next)
		}
		at = next
	}
	a.nodes[at].token = token
}

// child is the node behind a byte, 0 for none.
func (n *trieNode) child(b byte) int32 {
	if i := bytes.IndexByte(n.keys, b); i >= 0 {
		return n.children[i]
	}
	return 0
}

// find is the first token in s[from:], and its range.
func (a *addedSet) find(s string, from int) (token *addedTokenJSON, start, end int) {
	for start = from; start < len(s); start++ {
		if a.single {
			i := strings.IndexByte(s[start:], a.only)
			if i < 0 {
				break
			}
			start += i
		} else if !a.starts[s[start]] {
			continue
		}
		at := int32(0)
		for i := start; i < len(s); i++ {
			if at = a.nodes[at].child(s[i]); at == 0 {
				break
			}
			if t := a.nodes[at].token; t != nil {
				token, end = t, i+1
			}
		}
		if token != nil {
			return token, start, end
		}
	}
	return nil, len(s), len(s)
}

// split calls yield with the tokens found and, with a nil token, the text between them.
// A token may want to stand alone (single_word), and may take the white space beside it
// (lstrip, rstrip).
func (a *addedSet) split(s string, yield func(token *addedTokenJSON, text string, start int)) {
	rest := 0
	for from := 0; !a.empty(); {
		token, start, end := a.find(s, from)
		if token == nil {
			break
		}
		from = end
		if start < rest || token.SingleWord && !aloneAt(s, start, end) {
			continue
		}
		if token.LStrip {
			start = max(rest, len(strings.TrimRightFunc(s[:start], unicode.IsSpace)))
		}
		if token.RStrip {
			end = len(s) - len(strings.TrimLeftFunc(s[end:], unicode.IsSpace))
		}
		if rest < start {
			yield(nil, s[rest:start], rest)
		}
		yield(token, s[start:end], start)
		rest = end
	}
	if rest < len(s) {
		yield(nil, s[rest:], rest)
	}
}

// aloneAt reports whether no word rune stands beside s[start:end].
func aloneAt(s string, start, end int) bool {
	before, n := utf8.DecodeLastRuneInString(s[:start])
	behind, m := utf8.DecodeRuneInString(s[end:])
	return (n == 0 || !isWordRune(before)) && (m == 0 || !isWordRune(behind))
}

// exact is the token whose content is s, nil for none.
func (a *addedSet) exact(s string) *addedTokenJSON {
	if a.empty() || s == "" {
		return nil
	}
	at := int32(0)
	for i := range len(s) {
		if at = a.nodes[at].child(s[i]); at == 0 {
			return nil
		}
	}
	return a.nodes[at].token
}
