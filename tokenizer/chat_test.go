package tokenizer

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
)

// TestExplicitSpace has what Jinja 3.1.6 renders with trim_blocks and lstrip_blocks.
// The peer check compares thousands of such rows.
func TestExplicitSpace(t *testing.T) {
	for template, want := range map[string]string{
		"a: {{ x }}{%- if x %}b{% endif %}":      "a: Xb",
		" {{ x }}{# k #}":                        " X",
		"{{ x -}}\n\n {{ x }} ":                  "XX ",
		"a\n  {% if x %}\n  b\n  {% endif %}\nc": "a\n  b\nc",
		"{% if x +%}\nb{% endif %}":              "\nb",
		"a\n  {%+ if x %}b{% endif %}":           "a\n  b",
		"a\n  {{ x }}\nb":                        "a\n  X\nb",
		"a {#- k -#} b":                          "ab",
		"a\r\nb\n":                               "a\nb",
		`{{ "}}\" {%" }}\"{{ '}' }}`:             `}}" {%\"}`,
		"{% set y = {'k': '%}'} %}{{ y.k }}":     "%}",
	} {
		tok := &Tokenizer{names: map[string]string{"x": "X"}}
		tok.setTemplate(template)
		got, err := tok.Chat(nil, false)
		if err != nil || got != want {
			t.Errorf("%q renders to %q, want %q; error %v", template, got, want, err)
		}
	}
}

// TestChat has the constructs that the templates of Llama 3, Qwen and Mistral use; want
// is what transformers 5.24 renders.
func TestChat(t *testing.T) {
	const template = `{{- bos_token }}
{%- set ns = namespace(last=-1) %}
{%- macro head(role) %}<|{{ role }}|>
{% endmacro %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'] | trim %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
    {%- set loop_messages = messages %}
{%- endif %}
{{- head("system") }}{{ system_message }}
{%- if tools is not none %}tools{% endif %}
{%- if date_string is not defined %} no date{% endif %}

{% for message in loop_messages %}
    {%- if (message.role == "user") != (loop.index0 % 2 == 0) %}
        {{- raise_exception("roles must alternate") }}
    {%- endif %}
    {%- set ns.last = loop.index0 %}
    {{- head(message.role) + message['content'].strip() + eos_token }}
    {%- if not loop.last %}{{ "\n" }}{% endif %}
{%- endfor %}
[{{ ns.last }}|{{ messages | length }}|{{ {"a": "é"} | tojson }}]
{%- if add_generation_prompt %}{{ head("assistant") }}{% endif %}`
	config, err := marshal(map[string]string{"bos_token": "<s>", "eos_token": "</s>", "chat_template": template})
	if err != nil {
		t.Fatal(err)
	}
	tok := mustLoad(t, tiny(), string(config))
	chat := []Message{{"system", " Be brief. "}, {"user", "a\n"}, {"assistant", "b"}, {"user", "<c>"}}
	want := "<s><|system|>\nBe brief. no date\n<|user|>\na</s>\n<|assistant|>\nb</s>\n<|user|>\n<c></s>[2|4|{\"a\": \"é\"}]<|assistant|>\n"
	if got, err := tok.Chat(chat, true); err != nil || got != want {
		t.Errorf("got  %q\nwant %q\nerror %v", got, want, err)
	}
	if _, err := tok.Chat(chat[2:], false); err == nil || !strings.Contains(err.Error(), "roles must alternate") {
		t.Errorf("error %v for a chat the template refuses", err)
	}
}

func TestChatErrors(t *testing.T) {
	if _, err := mustLoad(t, tiny(), "").Chat(nil, true); !errors.Is(err, ErrNoChatTemplate) {
		t.Errorf("error %v without a template", err)
	}
	for _, template := range []string{"{{ x", "{% raw %}x{% endraw %}", "{% if x %}", "{% nosuch %}", "{{ 'a }}"} {
		b, err := json.Marshal(map[string]string{"chat_template": template})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := mustLoad(t, tiny(), string(b)).Chat(nil, true); err == nil || !strings.Contains(err.Error(), "chat template") {
			t.Errorf("%q: error %v", template, err)
		}
	}
}
