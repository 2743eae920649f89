package card

import (
	"github.com/coppice-lm/coppice/eval"
	"github.com/coppice-lm/coppice/eval/tasks"
)

// dataset is where the hub has the records of a benchmark.
type dataset struct {
	title             string // of the benchmark, for people
	id, config, split string
}

// datasets are those that lm-eval 0.4.13's tasks name, under the hub's present names of
// their repositories. The records of an evaluation come from a file; which ones they were
// a fingerprint says.
var datasets = map[string]dataset{
	"arc_easy":               {title: "ARC-Easy", id: "allenai/ai2_arc", config: "ARC-Easy", split: "test"},
	"arc_challenge":          {title: "ARC-Challenge", id: "allenai/ai2_arc", config: "ARC-Challenge", split: "test"},
	"boolq":                  {title: "BoolQ", id: "aps/super_glue", config: "boolq", split: "validation"},
	"lambada_openai":         {title: "LAMBADA-OpenAI", id: "EleutherAI/lambada_openai", config: "default", split: "test"},
	"lambada_standard":       {title: "LAMBADA-Standard", id: "cimec/lambada", config: "plain_text", split: "test"},
	"musr":                   {title: "MuSR"},
	"musr_murder_mysteries":  {title: "MuSR murder mysteries", id: "TAUR-Lab/MuSR", config: "default", split: "murder_mysteries"},
	"musr_object_placements": {title: "MuSR object placements", id: "TAUR-Lab/MuSR", config: "default", split: "object_placements"},
	"musr_team_allocation":   {title: "MuSR team allocation", id: "TAUR-Lab/MuSR", config: "default", split: "team_allocation"},
	"hellaswag":              {title: "HellaSwag", id: "Rowan/hellaswag", config: "default", split: "validation"},
	"piqa":                   {title: "PIQA", id: "ybisk/piqa", config: "plain_text", split: "validation"},
	"winogrande":             {title: "WinoGrande", id: "allenai/winogrande", config: "winogrande_xl", split: "validation"},
	"openbookqa":             {title: "OpenBookQA", id: "allenai/openbookqa", config: "main", split: "test"},
	"wikitext":               {title: "WikiText-2", id: "EleutherAI/wikitext_document_level", config: "wikitext-2-raw-v1", split: "test"},
}

// isBenchmark reports whether a task is one of Coppice's, defined as lm-eval defines it, and
// neither a text nor a task of the user's own.
func isBenchmark(t *eval.TaskResult) bool {
	_, err := tasks.Find(t.Name)
	return err == nil && t.Kind != eval.Text
}

// title is the name of a task or group for people.
func title(task string) string {
	if d, ok := datasets[task]; ok {
		return d.title
	}
	return task
}

// hubMetric is the hub's name of a metric (huggingface.co/metrics), and whether it has one.
func hubMetric(metric string) (string, bool) {
	switch metric {
	case eval.Acc:
		return "accuracy", true
	case eval.Perplexity, eval.TokenPerplexity, eval.WordPerplexity:
		return "perplexity", true
	}
	return metric, false
}
