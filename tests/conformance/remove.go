package conformance

var removeFacts = []Fact{}
