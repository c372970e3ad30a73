"""Why differentiable architecture search wires networks as it does: costs, searches, records, evidence."""
