package card

import (
	"fmt"
	"strings"

	"github.com/coppice-lm/coppice/arch"
)

// loading writes how the model is run: the programs that load its form, and how sure that
// is (docs/where-it-runs.md).
func (card *Card) loading(b *strings.Builder) {
	form := card.Spec.Form
	remote := form != arch.Plain
	fmt.Fprintf(b, "### transformers\n\n```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\nname = %q%s\n", card.where(), card.whereComment())
	trust := ""
	if remote {
		trust = ", trust_remote_code=True"
	}
	fmt.Fprintf(b, "tokenizer = AutoTokenizer.from_pretrained(name%s)\nmodel = AutoModelForCausalLM.from_pretrained(name%s)\n", trust, trust)
	b.WriteString("inputs = tokenizer(\"The capital of France is\", return_tensors=\"pt\")\nprint(tokenizer.decode(model.generate(**inputs, max_new_tokens=32)[0]))\n```\n\n")
	if remote {
		fmt.Fprintf(b, "Its layers differ in width, which the class of transformers cannot say; `%s` beside the weights gives each layer of that class an MLP of its width.\n\n", arch.ModelingName)
	}

	b.WriteString("### vLLM\n\n")
	switch form {
	case arch.Plain:
		fmt.Fprintf(b, "A plain checkpoint of its family, `%s`; Coppice did not run vLLM on it.\n\n```\nvllm serve %s\n```\n\n", card.Spec.Architecture(), card.where())
	case arch.DeciLM:
		fmt.Fprintf(b, "Its layers' widths stand in `block_configs`, which vLLM reads; Coppice did not run vLLM on it.\n\n```\nvllm serve %s --trust-remote-code\n```\n\n", card.where())
	default:
		b.WriteString("Not in this form: vLLM reads one width for all layers. `coppice apply` with `--form padded` writes the same model for it, as large as if all layers were as wide as the widest; for llama `--form decilm` is another way.\n\n")
	}

	b.WriteString("### llama.cpp\n\n")
	if g := card.GGUF; g.Architecture == "" {
		fmt.Fprintf(b, "Not in this form: %s.\n\n", escape(g.Reason))
	} else {
		file := card.shortName() + ".gguf"
		fmt.Fprintf(b, "As a GGUF file of the architecture `%s`:\n\n```\ncoppice export %s -o %s --type %s\nllama-cli -m %s -p \"The capital of France is\"\n```\n\n", g.Architecture, card.shortName(), file, g.Type, file)
	}
	fmt.Fprintf(b, "### Coppice\n\n```\ncoppice generate %s --prompt \"The capital of France is\"\n```\n\n", card.shortName())
}

// where is what loaders are given: the hub's name, or a directory of the model's name.
func (card *Card) where() string {
	if strings.Contains(card.Name, "/") {
		return card.Name
	}
	return "./" + card.Name
}

func (card *Card) whereComment() string {
	if strings.Contains(card.Name, "/") {
		return ""
	}
	return "  # the directory that holds these files"
}
