"""Other projects' layouts and steps: RedPajama-V2's files, datatrove's pipelines and executors, JSON lines for dolma."""
