package tokenizer

import (
	"errors"
	"fmt"
	"sync"

	"github.com/ardanlabs/jinja"
)

// A Message is one turn of a chat.
type Message struct {
	Role    string `json:"role"` // "system", "user" or "assistant", as the template knows them
	Content string `json:"content"`
}

// ErrNoChatTemplate is returned where a model has no chat template: base models have none.
var ErrNoChatTemplate = errors.New("the model has no chat template")

// setTemplate takes a template, which is compiled when it is first used: most uses of a
// tokenizer never do.
func (t *Tokenizer) setTemplate(source string) {
	t.template = source
	t.chat = sync.OnceValues(func() (*jinja.Template, error) {
		if source == "" {
			return nil, ErrNoChatTemplate
		}
		explicit, err := explicitSpace(source)
		if err != nil {
			return nil, fmt.Errorf("chat template: %w", err)
		}
		template, err := jinja.Compile(explicit)
		if err != nil {
			return nil, fmt.Errorf("chat template: %w", err)
		}
		return template, nil
	})
}

// ChatTemplate is the source of the chat template, "" if there is none.
func (t *Tokenizer) ChatTemplate() string { return t.template }

// Chat renders the turns of a chat as the text the model was trained on; with generate,
// up to where the assistant's next turn begins. Encode it without addSpecial, as the
// text has its BOS already. The result is that of transformers' apply_chat_template.
func (t *Tokenizer) Chat(messages []Message, generate bool) (string, error) {
	template, err := t.chat()
	if err != nil {
		return "", err
	}
	list := make([]any, len(messages))
	for i, m := range messages {
		list[i] = map[string]any{"role": m.Role, "content": m.Content}
	}
	data := map[string]any{"messages": list, "add_generation_prompt": generate, "tools": nil, "documents": nil}
	for role, name := range t.names {
		data[role] = name
	}
	text, err := template.Render(data)
	if err != nil {
		return "", fmt.Errorf("chat template: %w", err)
	}
	return text, nil
}
