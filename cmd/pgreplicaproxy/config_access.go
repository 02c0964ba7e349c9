package main

import (
	"path"
	"reflect"

	"github.com/hashicorp/hcl/v2"

	"github.com/replicon/pgreplicaproxy/policy"
)

// What an access block does.
var accessActions = oneOf("what an access block does", map[string]bool{"allow": true, "refuse": false})

// access returns the access rules of the file; none lets everybody in.
func (c *converter) access(blocks []*rawAccess) []policy.Access {
	var rules []policy.Access
	everybody := 0 // the line of a rule that takes everybody
	for _, raw := range blocks {
		if everybody > 0 {
			c.fail(raw.Def, "Unreachable access rule",
				"The access block on line %d takes everybody. Put this one before it, or remove it.", everybody)
		}
		before := len(c.diags)
		rule := c.accessRule(raw)
		if len(c.diags) > before {
			continue // a criterion that could not be read looks like none
		}
		if reflect.DeepEqual(rule, policy.Access{Allow: rule.Allow, Reason: rule.Reason}) {
			everybody = raw.Def.Start.Line
		}
		rules = append(rules, rule)
	}
	return rules
}

func (c *converter) accessRule(raw *rawAccess) policy.Access {
	rule := policy.Access{
		TLS:             choice(c, raw.TLS, policy.Either, policy.ParseCondition),
		Certificate:     choice(c, raw.ClientCertificate, policy.Either, policy.ParseCondition),
		User:            c.name(raw.User, ""),
		UserPattern:     c.pattern(raw.UserPattern),
		Database:        c.name(raw.Database, ""),
		DatabasePattern: c.pattern(raw.DatabasePattern),
		Reason:          c.name(raw.Reason, ""),
	}
	if raw.Action == nil {
		c.fail(raw.Def, "What to do?", `An access block has to say what it does: action = "allow" or action = "refuse".`)
	}
	rule.Allow = choice(c, raw.Action, false, accessActions)
	for _, w := range c.words(raw.From) {
		if w.text == wordUnix {
			rule.Unix = true
		} else if p, err := parseNetwork(w.text); err != nil {
			c.fail(w.at, "Not a network", `%s, or "unix" for unix sockets.`, sentence(err.Error()))
		} else {
			rule.From = append(rule.From, p)
		}
	}
	if raw.From != nil && len(rule.From) == 0 && !rule.Unix {
		c.fail(raw.From.Expr.Range(), "No network", "No client comes from nowhere. Name a network, or leave from out for all.")
	}
	for _, pair := range [][2]*hcl.Attribute{{raw.User, raw.UserPattern}, {raw.Database, raw.DatabasePattern}} {
		if a, b := firstTwo(pair[:]...); b != nil {
			c.fail(b.Range, "Two rules for one name", "%s and %s are both set. Remove one of them.", a.Name, b.Name)
		}
	}
	if rule.Allow && rule.Reason != "" {
		c.fail(raw.Reason.Range, "Not used", `reason is told to whom a rule refuses. Remove it, or write action = "refuse".`)
	}
	return rule
}

// pattern returns a pattern of path.Match.
func (c *converter) pattern(a *hcl.Attribute) string {
	p := c.name(a, "")
	if _, err := path.Match(p, ""); err != nil {
		c.fail(a.Expr.Range(), "Bad pattern",
			"The pattern cannot be read. * stands for any characters, ? for one, [a-z] for one of a class; a backslash (written twice in HCL) takes the next one as it is.")
	}
	return p
}
