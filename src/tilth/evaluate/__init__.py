"""Many samples a problem: which of them are right, which answer is chosen, and what that costs in seconds.

problems    what is asked, and the answer that is right
answers     the answer in a text, and one spelling for all that are equal; by spellings, and expressions' parser
prompting   from a question to ids, with examples, and from ids to text
solving     problems through the engine: many samples of each, with the second at which each could be used
engines     an engine with the room that a batch needs, warm, and measured
verifier    the probability that a solution is right, from a model of two classes
samples     what was drawn, and when it was finished; as arrays of problems x samples
coverage    pass@k and pass^k without bias, and intervals over problems
votes       majority, weighted majority and best-of-n; how often each is right with k samples
budgets     coverage and accuracy by second t, at the batch that completes most, at equal memory
harness     EleutherAI's lm-evaluation-harness on an exported folder

Nothing here imports torch at its top but what draws samples.
"""
