package card

import (
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/coppice-lm/coppice/internal/frontmatter"
)

// Says is what only a person can say, or says better. Empty fields are found in the
// README that the model has already, in the study, or where the dense model lies.
type Says struct {
	Name      string // of the model, NAME or owner/NAME
	Base      string // owner/name[@revision] of the dense model
	Licence   Licence
	Languages []string
	Datasets  []string // the hub's names of the calibration text
	Author    string
}

// SaysError says that what a person said cannot stand, or is needed and missing.
type SaysError struct{ Err error }

func (e *SaysError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *SaysError) Unwrap() error { return e.Err }

func saysErrorf(format string, args ...any) error { return &SaysError{fmt.Errorf(format, args...)} }

// Check is a *SaysError if the hub would refuse something, whatever the model.
func (s *Says) Check() error {
	if s.Base != "" {
		if _, err := ParseBase(s.Base); err != nil {
			return saysErrorf("--base-model %w", err)
		}
	}
	if s.Name != "" && !hubName().MatchString("o/"+s.Name) && !hubName().MatchString(s.Name) {
		return saysErrorf("--name %q: expected NAME or owner/NAME of letters, digits, dots and dashes", s.Name)
	}
	for _, l := range s.Languages {
		if !languageCode.MatchString(l) {
			return saysErrorf("--language %q: expected a code of ISO 639 in small letters, such as en, or multilingual", l)
		}
	}
	for _, d := range s.Datasets {
		if b, err := ParseBase(d); err != nil {
			return saysErrorf("--dataset %w", err)
		} else if b.Revision != "" {
			return saysErrorf("--dataset %q: the hub takes no revision here", d)
		}
	}
	if strings.ContainsAny(s.Author, "\n\r") {
		return saysErrorf("--author %q: expected one line", s.Author)
	}
	if err := s.Licence.Check(); err != nil {
		return saysErrorf("--license: %w", err)
	}
	return nil
}

var languageCode = regexp.MustCompile(`^([a-z]{2,3}|code|multilingual)$`)

// name decides what model, base model, licence and languages are called. The base_model of
// a README that came with the dense model is what that was made from, and not it.
func (card *Card) name(says *Says, old readme) error {
	base, known := Base{}, false
	if says.Base != "" {
		base, _ = ParseBase(says.Base) // checked
		known = true
		if _, err := os.Stat(base.Name); err == nil {
			card.note("%s is also a path here; the card takes it for the name of a model on the hub", base.Name)
		}
	}
	if b := card.from.Base; b.Name != "" && (!known || b.Name == base.Name) {
		base, known, card.BaseChecked = b, true, true
	}
	if !known && card.record != nil {
		b, err := ParseBase(card.record.Cell.BaseModel)
		base, known = b, err == nil
	}
	if !known && old.own && len(old.BaseModels) == 1 {
		b, err := ParseBase(old.BaseModels[0])
		base, known = b, err == nil
	}
	if !known {
		return &SaysError{errNoBase}
	}
	card.Base, card.Author, card.Datasets = base, says.Author, says.Datasets
	card.Licence = says.Licence
	for _, f := range []*frontmatter.Front{&old.Front, &card.from.Front} {
		if card.Licence.ID != "" {
			break
		}
		card.Licence = Licence{f.License, f.LicenseName, f.LicenseLink}
		if err := card.Licence.Check(); err != nil {
			return fmt.Errorf("the model's README.md: %w; give the right one with --license", err)
		}
	}
	if card.Licence.ID == "" {
		card.note("the licence of the base model is not known, and the card has none; give it with --license")
	}
	if card.Languages = says.Languages; len(card.Languages) == 0 {
		languages := old.Languages
		if len(languages) == 0 {
			languages = card.from.Languages
		}
		for _, l := range languages {
			if languageCode.MatchString(l) {
				card.Languages = append(card.Languages, l)
			} else {
				card.note("%q is no code of ISO 639 in small letters; the card leaves this language out", l)
			}
		}
	}
	if len(card.Languages) == 0 {
		card.note("the languages of the base model are not known, and the card names none; give them with --language")
	}
	if len(card.Datasets) > 0 && card.Plan.Calibration == nil && card.Plan.Refit == nil {
		return saysErrorf("--dataset %s: the plan uses no calibration text", card.Datasets[0])
	}
	return card.nameModel(says.Name)
}

// nameModel names the model as the user says, else after the base model and what was
// removed, as its licence allows.
func (card *Card) nameModel(name string) error {
	duty := llamaDuties[card.Licence.ID]
	if name == "" {
		_, base, _ := strings.Cut(card.Base.Name, "/")
		name = fmt.Sprintf("%s-pruned%.0f", base, 100*card.removed())
		if !duty.named(name) {
			name = strings.ReplaceAll(duty.prefix, " ", "-") + "-" + name
		}
	}
	card.Name = name
	if !duty.named(card.shortName()) {
		return saysErrorf("--name %s: the %s asks that the name of a model made from it begin with %q", name, duty.licence, duty.prefix)
	}
	if duty.notice != "" && !card.Notice {
		card.note("the %s asks for a file NOTICE with the text: %s", duty.licence, duty.notice)
	}
	if duty.notice != "" && !card.LicenceDoc {
		card.note("the %s asks that a copy of it go with the model; put it there as LICENSE", duty.licence)
	}
	return nil
}

// shortName is the model's name without its owner.
func (card *Card) shortName() string {
	return card.Name[strings.LastIndex(card.Name, "/")+1:]
}

func (card *Card) note(format string, args ...any) {
	card.Notes = append(card.Notes, fmt.Sprintf(format, args...))
}
