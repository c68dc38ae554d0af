//! `vitrail image rm`

use clap::Args;
use serde_json::json;

use crate::cli::Context;
use crate::cli::output::Table;

#[derive(Args)]
pub(crate) struct Rm {
    /// Ids or unambiguous names. If one of them cannot be found, nothing is deleted.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Rm {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<()> {
        let api = context.client.images();
        let mut ids: Vec<String> = Vec::new();
        for image in &self.images {
            let id = api.find(image).await?.id;
            // An image may be named twice, by its id and by its name.
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        for id in &ids {
            api.delete(id).await?;
            context.output.note(&format!("deleted {id}"));
        }
        context
            .output
            .print(&json!({ "deleted": ids }), |_| Table::default())?;
        Ok(())
    }
}
