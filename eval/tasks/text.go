package tasks

import (
	"fmt"
	"os"
	"unicode/utf8"

	"github.com/coppice-lm/coppice/eval"
)

// TextTask makes a task of a file of plain text: its perplexity in windows of ctx tokens,
// of which the first is context, a shorter last window dropped (--text FILE --ctx N). Its
// results stand under the name "text".
func TextTask(path string, ctx int) (*eval.Task, error) {
	if ctx < 2 {
		return nil, eval.Usagef("windows of %d tokens predict nothing: --ctx is at least 2", ctx)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if !utf8.Valid(data) {
		return nil, fmt.Errorf("%s: the text is not valid UTF-8", path)
	}
	if len(data) == 0 {
		return nil, fmt.Errorf("%s: the file is empty", path)
	}
	text := string(data)
	return &eval.Task{
		Name: "text", Kind: eval.Text, Metrics: eval.Text.Metrics(), Version: 1,
		Source: path, Window: ctx,
		Docs: []eval.Doc{{Text: text, Words: eval.CountWords(text), Bytes: len(text)}},
	}, nil
}
