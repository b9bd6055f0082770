"""Distillation: students of a teacher's weights, and one objective a file for each stage that brings them nearer to it."""
