package export

import (
	"fmt"
	"strings"

	"github.com/coppice-lm/coppice/tokenizer"
)

// Modelfile is ollama's description of the model in a GGUF file (docs/modelfile.md of
// ollama): where the weights are, the chat template, when to stop, the licence. File is
// the GGUF's name beside it. Notes say what had to be left out.
//
// ollama's templates are in Go's language, those of models in Jinja's. What a chat
// template puts around each turn is found by rendering chats with it; a template that puts
// other things around the same turn elsewhere is left out, and ollama then looks for one of
// its own.
func (p *Program) Modelfile(file string) (text string, notes []string) {
	var b strings.Builder
	fmt.Fprintf(&b, "FROM ./%s\n", file)
	if p.Chat != nil && p.Chat.ChatTemplate() != "" {
		turns, err := probe(p.Chat)
		if err != nil {
			notes = append(notes, fmt.Sprintf("the Modelfile has no TEMPLATE: %v", err))
		} else {
			b.WriteString("TEMPLATE " + quoted(turns.template()) + "\n")
			if turns.system != "" {
				b.WriteString("SYSTEM " + quoted(turns.system) + "\n")
			}
		}
	}
	if p.Chat != nil {
		if eos, ok := p.Chat.Token(p.Chat.EOS()); ok {
			fmt.Fprintf(&b, "PARAMETER stop %q\n", eos)
		}
	}
	licence := p.Card.Text
	if licence == "" {
		licence = strings.TrimSpace(p.Card.License + " " + p.Card.LicenseName + " " + p.Card.LicenseLink)
	}
	if licence != "" {
		b.WriteString("LICENSE " + quoted(licence) + "\n")
	}
	return b.String(), notes
}

// quoted is a text of several lines as a Modelfile holds it, which knows no escape.
func quoted(s string) string { return `"""` + strings.ReplaceAll(s, `"""`, `" " "`) + `"""` }

// turns is what a chat template puts before and behind each kind of turn.
type turns struct {
	system                      string // the message of chats that bring none
	sysPre, sysPost             string
	userPre, replyPre, replyEnd string
}

// probe renders chats whose contents cannot be mistaken for anything else and takes them
// apart.
func probe(t *tokenizer.Tokenizer) (turns, error) {
	const sys, user, reply, second = "\x01system\x01", "\x01user\x01", "\x01reply\x01", "\x01second\x01"
	message := func(role, content string) tokenizer.Message {
		return tokenizer.Message{Role: role, Content: content}
	}
	bare, err := t.Chat([]tokenizer.Message{message("user", user)}, true)
	if err != nil {
		return turns{}, err
	}
	whole, err := t.Chat([]tokenizer.Message{message("system", sys), message("user", user), message("assistant", reply), message("user", second)}, true)
	if err != nil {
		return turns{}, err
	}
	parts := make([]string, 0, 5)
	rest := whole
	for _, mark := range []string{sys, user, reply, second} {
		before, after, ok := strings.Cut(rest, mark)
		if !ok {
			return turns{}, fmt.Errorf("the chat template drops or reorders a turn")
		}
		parts, rest = append(parts, before), after
	}
	parts = append(parts, rest)
	// parts: before system | system to user | user to reply | reply to user | end
	start, tail, ok := strings.Cut(bare, user)
	if !ok || tail != parts[4] || parts[2] != parts[4] {
		return turns{}, fmt.Errorf("the chat template treats the last turn otherwise than those before it")
	}
	v := turns{sysPre: parts[0]}
	v.userPre = commonEnd(parts[1], parts[3])
	if eos, ok := t.Token(t.EOS()); ok {
		// What ends every turn is common too; a turn of the user begins behind it.
		if i := strings.LastIndex(v.userPre, eos); i >= 0 {
			v.userPre = strings.TrimPrefix(v.userPre[i+len(eos):], "\n")
		}
	}
	v.sysPost, v.replyEnd = strings.TrimSuffix(parts[1], v.userPre), strings.TrimSuffix(parts[3], v.userPre)
	v.replyPre = parts[4] // with what ends the turn of the user
	before, ok := strings.CutSuffix(start, v.userPre)
	if !ok {
		return turns{}, fmt.Errorf("the chat template begins a chat without a system message otherwise")
	}
	if before != "" {
		inner, ok := strings.CutPrefix(before, v.sysPre)
		if !ok || !strings.HasSuffix(inner, v.sysPost) {
			return turns{}, fmt.Errorf("the chat template begins a chat without a system message otherwise")
		}
		if v.system = strings.TrimSuffix(inner, v.sysPost); v.system == "" {
			return turns{}, fmt.Errorf("the chat template says a system turn where the chat has none")
		}
	}
	for _, s := range []string{v.sysPre, v.sysPost, v.userPre, v.replyPre, v.replyEnd} {
		if strings.Contains(s, "{{") {
			return turns{}, fmt.Errorf("the chat template's text has {{ in it")
		}
	}
	return v, nil
}

// commonEnd is the longest text that both end with.
func commonEnd(a, b string) string {
	n := 0
	for n < len(a) && n < len(b) && a[len(a)-1-n] == b[len(b)-1-n] {
		n++
	}
	return a[len(a)-n:]
}

// template is the same in Go's language, over ollama's .System and .Messages. White space
// counts, so that no marker trims any.
func (v turns) template() string {
	return "{{ if .System }}" + v.sysPre + "{{ .System }}" + v.sysPost + "{{ end }}" +
		"{{ range .Messages }}" +
		`{{ if eq .Role "user" }}` + v.userPre + "{{ .Content }}" + v.replyPre +
		`{{ else if eq .Role "assistant" }}` + "{{ .Content }}" + v.replyEnd +
		"{{ end }}{{ end }}"
}
