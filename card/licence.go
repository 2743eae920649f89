package card

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// Licence is the licence of the base model, which the pruned one has too.
type Licence struct {
	ID   string // the hub's identifier; empty if not known
	Name string // of a licence that the hub has no identifier for
	Link string // where its text is
}

// licences are the identifiers that the hub accepts (huggingface.co/docs/hub/repositories-licenses).
var licences = strings.Fields(`
	apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
	afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0
	cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0
	cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
	cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2
	agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl
	apple-ascl apple-amlr mpl-2.0 odc-by odbl openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl
	lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4
	grok2-community gemma unknown other`)

// Check is an error if the hub would refuse the licence.
func (l *Licence) Check() error {
	switch {
	case l.ID != "" && !slices.Contains(licences, l.ID):
		return fmt.Errorf("licence %q is not among the hub's identifiers (huggingface.co/docs/hub/repositories-licenses); for one that it lacks give other, a name and a link", l.ID)
	case l.ID == "other" && (l.Name == "" || l.Link == ""):
		return fmt.Errorf("licence \"other\" needs a name and a link to its text")
	case l.Name != "" && !licenceName.MatchString(l.Name):
		return fmt.Errorf("licence name %q: expected letters, digits, dots and dashes", l.Name)
	}
	return nil
}

var licenceName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// String is the licence for people.
func (l *Licence) String() string {
	if l.Name != "" {
		return l.Name
	}
	return l.ID
}

// duties are what a licence asks of those who pass on a model derived from its own.
type duties struct {
	licence string // its full name
	banner  string // words to be shown prominently; empty: none
	prefix  string // what the derived model's name begins with; empty: anything
	notice  string // what a file named NOTICE must say
	policy  string // the policy of acceptable use that is part of the licence
}

// llamaDuties are section 1.b of Meta's community licences, by the hub's identifier.
// Llama 2's asks for the notice alone; that of Llama 3 has another banner and prefix than
// the later ones.
var llamaDuties = map[string]duties{
	"llama2": {
		licence: "Llama 2 Community License Agreement",
		notice:  "Llama 2 is licensed under the LLAMA 2 Community License, Copyright (c) Meta Platforms, Inc. All Rights Reserved.",
		policy:  "https://ai.meta.com/llama/use-policy",
	},
	"llama3": {
		licence: "Meta Llama 3 Community License Agreement", banner: "Built with Meta Llama 3", prefix: "Llama 3",
		notice: "Meta Llama 3 is licensed under the Meta Llama 3 Community License, Copyright © Meta Platforms, Inc. All Rights Reserved.",
		policy: "https://llama.meta.com/llama3/use-policy",
	},
	"llama3.1": laterLlama("3.1", "https://llama.meta.com/llama3_1/use-policy"),
	"llama3.2": laterLlama("3.2", "https://www.llama.com/llama3_2/use-policy"),
	"llama3.3": laterLlama("3.3", "https://www.llama.com/llama3_3/use-policy"),
	"llama4":   laterLlama("4", "https://www.llama.com/llama4/use-policy"),
}

func laterLlama(version, policy string) duties {
	return duties{
		licence: "Llama " + version + " Community License Agreement", banner: "Built with Llama", prefix: "Llama",
		notice: "Llama " + version + " is licensed under the Llama " + version + " Community License, Copyright © Meta Platforms, Inc. All Rights Reserved.",
		policy: policy,
	}
}

// named reports whether a model's name begins as the licence asks; dashes and spaces are
// the same to it, and so is case.
func (d *duties) named(name string) bool {
	return strings.HasPrefix(squash(name), squash(d.prefix))
}

// squash is a name without what separates its words. "Llama-3.2" and "Llama 3" begin alike.
func squash(s string) string {
	return strings.ToLower(strings.NewReplacer(" ", "", "-", "", "_", "").Replace(s))
}
